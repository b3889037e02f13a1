# ConcertRL with Ray and MLflow: head, worker, driver and MLflow server are one image.
#   docker build -t concertrl:0.1.0 .
#   docker build -t concertrl:0.1.0-cpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .

# --- the packages, pinned, in a virtual environment ---
FROM python:3.12.8-slim-bookworm AS packages
ARG TORCH_INDEX=https://pypi.org/simple
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# implicit has no wheel for every platform.
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential cmake ninja-build \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/concertrl
ENV PATH=/opt/concertrl/bin:$PATH
COPY constraints.txt /build/
# By itself, so that a change of our code installs nothing again.
RUN pip install -c /build/constraints.txt --extra-index-url "$TORCH_INDEX" torch
COPY pyproject.toml README.md LICENSE py.typed __init__.py __main__.py /build/concertrl/
COPY agents /build/concertrl/agents
COPY cluster /build/concertrl/cluster
COPY envs /build/concertrl/envs
COPY experiments /build/concertrl/experiments
COPY platform /build/concertrl/platform
RUN pip install -c /build/constraints.txt "/build/concertrl[postgres]"

# --- what runs: no compiler, no root ---
FROM python:3.12.8-slim-bookworm
# wget: KubeRay's probes. rsync: Ray's cluster launcher. libgomp1: torch and implicit.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 rsync wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home concertrl \
    && install -d -o concertrl -g concertrl /artifacts /home/concertrl/runs
COPY --from=packages /opt/concertrl /opt/concertrl
ENV PATH=/opt/concertrl/bin:$PATH PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
USER 1000:1000
WORKDIR /home/concertrl
# Of the head, which the image is unless told otherwise.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=4 \
    CMD ["ray", "health-check", "--address", "127.0.0.1:6379"]
CMD ["ray", "start", "--head", "--block", "--port=6379", "--dashboard-host=0.0.0.0", "--metrics-export-port=8080"]
