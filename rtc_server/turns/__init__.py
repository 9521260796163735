"""Who is speaking, pure: `vad_*` (voice), `detector` (turns), `interruption` (barge-in), `echo_guard`."""
