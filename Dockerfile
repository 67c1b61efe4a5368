# The runtime image: the service without torch, without a compiler, as a numeric user.
#   docker build --target runtime -t gatewatch .
# It listens for everybody, so it asks for keys, or for GATEWATCH_OPEN=always: see docs/security.md.
# The trainer, with torch:
#   docker build --target trainer -t gatewatch-trainer .

FROM python:3.11-slim AS build
RUN python3 -m venv /opt/gatewatch
ENV PATH=/opt/gatewatch/bin:$PATH
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY gatewatch ./gatewatch
COPY models ./models
COPY service ./service
RUN pip install --no-cache-dir --no-compile '.[oidc,signatures]' \
    && pip uninstall --yes --quiet pip setuptools \
    && find /opt/gatewatch -name tests -type d -prune -exec rm -rf {} +

FROM build AS build-trainer
RUN python3 -m venv --upgrade-deps /opt/trainer \
    && /opt/trainer/bin/pip install --no-cache-dir '.[train]'

FROM python:3.11-slim AS trainer
COPY --from=build-trainer /opt/trainer /opt/trainer
ENV PATH=/opt/trainer/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /work
ENTRYPOINT ["gatewatch"]
CMD ["train", "--help"]

FROM python:3.11-slim AS runtime
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
