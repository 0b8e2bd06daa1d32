"""LoRA files of the LTX-Video transformer: every format in and out, reports, merging and extraction."""
