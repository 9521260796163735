"""The telephone edge: a SIP proxy (Kamailio) and a media relay (rtpengine), configured and run from the settings."""
