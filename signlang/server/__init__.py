"""HTTP inference server: FastAPI app, dynamic batching, supervised workers."""
