"""Inference with a bundle; needs only numpy, Pillow and onnxruntime."""
