# syntax=docker/dockerfile:1
# Builds for the architecture of the machine it runs on, x86-64 or arm64: the native part chooses its instruction set
# when it starts. docs/deploy.md says how to run it.

FROM python:3.11-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
ARG EXTRAS=chains,grpc,ray
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY native native
COPY src src
RUN pip wheel --no-cache-dir --wheel-dir /wheels ".[${EXTRAS}]"

FROM python:3.11-slim
ARG EXTRAS=chains,grpc,ray
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "shoal-inference[${EXTRAS}]"
RUN useradd --uid 10001 --create-home shoal \
    && install --directory --owner shoal --group shoal /var/cache/shoal /models
USER shoal
# Packed weights, models that were sent, and measured speeds: a volume here makes the next start quick.
ENV XDG_CACHE_HOME=/var/cache/shoal \
    SHOAL_SERVE_HOST=0.0.0.0 \
    PYTHONUNBUFFERED=1
VOLUME /var/cache/shoal
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/health' % os.environ.get('SHOAL_SERVE_PORT', '8000'), timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["shoal"]
CMD ["serve", "--help"]
