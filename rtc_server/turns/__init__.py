"""Who is speaking, pure: `vad_*` (voice), `detector` (turns), `interruption` (barge-in), `echo_guard`; and who is done:
`completion` (how long a pause may be), `smart_turn` (how the end of a turn sounds), `judge` (who is asked)."""
