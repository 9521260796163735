"""The backend "opens2s": one large model that hears speech and answers with speech."""
