"""The pieces of a dossier: signatures, receipts, the open part, the sealed part, verification."""
