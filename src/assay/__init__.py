"""assay: build AI models and answer for them."""
