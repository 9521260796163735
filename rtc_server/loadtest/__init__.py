"""`rtc-server loadtest`: many calls from a native client, over a link that is as bad as asked for."""
