"""A caller without a microphone: plays recordings into a real WebRTC call and measures what comes back."""
