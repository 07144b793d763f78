"""The models that are trained, and how they are configured, built, loaded and converted.

Reading order: variants, configuration_deit, layers, modeling_deit, distillation_token, image_processing_deit, labels,
build, timm_models, conversion, compiled, target_loss, probabilities, safe_loading, local_sources, export,
export_readme, arguments.
"""
