// NOT BUILT HERE. One screen around RealtimeCall: call, mute, hang up, and what both sides say.
//
// Info.plist: NSMicrophoneUsageDescription ("To talk with the assistant"), UIBackgroundModes: [audio]; and for a server
// on plain http in the local network NSAppTransportSecurity / NSAllowsLocalNetworking.

import AVFoundation
import SwiftUI

@main
struct TalkApp: App {
    var body: some Scene {
        WindowGroup { TalkView() }
    }
}

struct TalkView: View {
    @StateObject private var call = RealtimeCall(
        base: URL(string: "https://voice.example.org:8443/v1")!,
        key: nil)  // an ephemeral key of your own back end (POST /v1/realtime/client_secrets), never the API key
    @State private var lines: [String] = []
    @State private var isMuted = false
    @Environment(\.scenePhase) private var phase

    var body: some View {
        VStack(spacing: 16) {
            Text(status).font(.headline)
            List(Array(lines.enumerated()), id: \.offset) { Text($0.element) }
            HStack {
                if call.state == .new {
                    Button("Call") { Task { await begin() } }
                } else if call.state != .ended {
                    Toggle("Mute", isOn: $isMuted).onChange(of: isMuted) { call.isMuted = isMuted }
                    Button("Hang up", role: .destructive) { Task { await call.hangUp() } }
                }
            }
        }
        .padding()
        .onChange(of: phase) { if phase == .active, call.state == .live { call.networkChanged() } }
    }

    private var status: String {
        switch call.state {
        case .new: "Ready"
        case .connecting: "Connecting"
        case .live: "Listening"
        case .lost: "Looking for the network"
        case .ended: call.problem ?? "Over"
        }
    }

    private func begin() async {
        guard await AVAudioApplication.requestRecordPermission() else {
            lines.append("The microphone is not allowed: Settings > Talk > Microphone.")
            return
        }
        call.onEvent = { event in
            switch event["type"] as? String {
            case "conversation.item.input_audio_transcription.completed":
                lines.append("You: \(event["transcript"] as? String ?? "")")
            case "response.output_audio_transcript.done":
                lines.append("Assistant: \(event["transcript"] as? String ?? "")")
            default: break
            }
        }
        do {
            try await call.start()
        } catch {
            lines.append("No call: \(error)")
        }
    }
}
