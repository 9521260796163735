"""The settings: one frozen, typed object that is built once, before anything else.

Every key has a type, a range, a default and a sentence; `config/server.toml` and `docs/configuration.md` are
written from them (`python -m scripts.configuration`). Values come from the command line, then the environment,
then the file, then the defaults; `explain` tells which. The sections are in `server`, `engine`, `calls`,
`recording`, `sip` and `sip_edge`.
"""

from .calls import AudioSection, SessionSection, TurnsSection, WebRtcSection
from .engine import CascadeSection, EngineSection, ModelsSection, OpenS2SSection
from .kinds import HASH_PREFIX, Section
from .recording import RecordingSection
from .server import (
    AdmissionSection,
    AuthSection,
    LimitsSection,
    LoggingSection,
    ServerSection,
    SystemSection,
    TracingSection,
)
from .sip import SipSection
from .sip_edge import SipEdgeSection
from .sources import (
    COMMAND_LINE,
    DEFAULT,
    ENV_PREFIX,
    Explained,
    Settings,
    SettingsKey,
    explain,
    load_settings,
    settings_keys,
)
from .turn import TurnSection

__all__ = [
    "COMMAND_LINE",
    "DEFAULT",
    "ENV_PREFIX",
    "HASH_PREFIX",
    "AdmissionSection",
    "AudioSection",
    "AuthSection",
    "CascadeSection",
    "EngineSection",
    "Explained",
    "LimitsSection",
    "LoggingSection",
    "ModelsSection",
    "OpenS2SSection",
    "RecordingSection",
    "Section",
    "ServerSection",
    "SessionSection",
    "Settings",
    "SettingsKey",
    "SipEdgeSection",
    "SipSection",
    "SystemSection",
    "TracingSection",
    "TurnSection",
    "TurnsSection",
    "WebRtcSection",
    "explain",
    "load_settings",
    "settings_keys",
]
