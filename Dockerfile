# The service alone: no torch, no compiler, no root. Bundles are mounted, not copied:
#   docker build -t signlang .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/bundles:/bundles:ro" signlang bundle=/bundles/NAME

FROM node:24-trixie-slim AS page
WORKDIR /page
COPY signlang/server/page/package.json signlang/server/page/package-lock.json ./
RUN npm ci --omit=dev --ignore-scripts --no-audit --no-fund \
    && mkdir vendor \
    && cp node_modules/onnxruntime-web/dist/ort.wasm.min.mjs \
        node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.mjs \
        node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm vendor/ \
    && gzip -9 -k -n vendor/*.wasm

FROM python:3.11-slim-trixie AS packages
COPY requirements-serve.lock /
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --require-hashes --requirement /requirements-serve.lock \
    && /venv/bin/pip uninstall --yes pip setuptools

FROM python:3.11-slim-trixie
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /app
COPY --from=packages /venv /venv
COPY conf conf
COPY signlang signlang
COPY --from=page /page/vendor signlang/server/page/vendor
RUN python -m compileall -q signlang /venv/lib
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["python", "-m", "signlang.serve", "host=0.0.0.0", "port=8000"]
CMD ["--help"]
