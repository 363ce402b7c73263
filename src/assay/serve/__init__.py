"""The model service: a verified dossier in, answers out. Only `gate`, `routes` and `server` need the serve extra."""
