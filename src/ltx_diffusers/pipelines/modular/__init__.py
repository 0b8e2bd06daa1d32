"""The steps of `LTXConditionPipeline` as blocks of Diffusers' modular pipelines."""
