"""Hands in images: MediaPipe's two networks in ONNX, the pipeline around them, stored results."""
