# The runtime image: the service without torch, without a compiler, as a numeric user.
#   docker build --target runtime -t gatewatch .
# It listens for everybody, so it asks for keys, or for GATEWATCH_OPEN=always: see docs/security.md.
# The trainer, with torch:
#   docker build --target trainer -t gatewatch-trainer .
# What is installed is locked by hash in docker/requirements*.txt; `make lock` renews them, docker/pin-images adds digests.

FROM python:3.11.13-slim-bookworm AS build
RUN python3 -m venv /opt/gatewatch
ENV PATH=/opt/gatewatch/bin:$PATH
WORKDIR /source
COPY docker/requirements-build.txt docker/requirements.txt ./
RUN pip install --no-cache-dir --no-compile --require-hashes -r requirements-build.txt -r requirements.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY gatewatch ./gatewatch
COPY clients/python/gatewatch_client ./clients/python/gatewatch_client
COPY models ./models
COPY service ./service
RUN pip install --no-cache-dir --no-compile --no-deps --no-build-isolation . \
    && pip uninstall --yes --quiet pip setuptools \
    && find /opt/gatewatch -name tests -type d -prune -exec rm -rf {} +

FROM build AS build-trainer
COPY docker/requirements-train.txt ./
# torch is not locked: its builds for CPU and for each CUDA are other files of the same version
RUN python3 -m venv /opt/trainer \
    && /opt/trainer/bin/pip install --no-cache-dir --require-hashes -r requirements-build.txt -r requirements-train.txt \
    && /opt/trainer/bin/pip install --no-cache-dir 'torch==2.13.*' \
    && /opt/trainer/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11.13-slim-bookworm AS trainer
ARG VERSION=0 REVISION=unknown CREATED=unknown
LABEL org.opencontainers.image.title="gatewatch-trainer" \
    org.opencontainers.image.description="Trains anomaly detectors for Gatewatch" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version=$VERSION \
    org.opencontainers.image.revision=$REVISION \
    org.opencontainers.image.created=$CREATED \
    org.opencontainers.image.base.name="python:3.11.13-slim-bookworm"
COPY --from=build-trainer /opt/trainer /opt/trainer
ENV PATH=/opt/trainer/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /work
ENTRYPOINT ["gatewatch"]
CMD ["train", "--help"]

FROM python:3.11.13-slim-bookworm AS runtime
ARG VERSION=0 REVISION=unknown CREATED=unknown
LABEL org.opencontainers.image.title="gatewatch" \
    org.opencontainers.image.description="An anomaly score for every reading of every sensor stream" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version=$VERSION \
    org.opencontainers.image.revision=$REVISION \
    org.opencontainers.image.created=$CREATED \
    org.opencontainers.image.base.name="python:3.11.13-slim-bookworm"
COPY --from=build /opt/gatewatch /opt/gatewatch
ENV PATH=/opt/gatewatch/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    GATEWATCH_HOST=0.0.0.0 GATEWATCH_PORT=8000
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
# asked past any proxy, and at 8000 where Kubernetes has put an address into GATEWATCH_PORT, as the service does
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as r; p = os.environ.get('GATEWATCH_PORT', ''); r.build_opener(r.ProxyHandler({})).open(f'http://127.0.0.1:{p if p.isdigit() else 8000}/livez', timeout=2)"]
CMD ["gatewatch", "serve"]
