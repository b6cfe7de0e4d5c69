"""Why a request goes where it goes, asked without asking any provider."""
