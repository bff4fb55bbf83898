# Two images from one tree:
#   docker build --target worker -t arke-worker .
#   docker build --target orchestrator -t arke-orchestrator .
# Both run as user 10001, who owns nothing but /data.

FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin arke \
 && install -d -o arke -g arke /data
WORKDIR /app
COPY requirements.lock pyproject.toml README.md LICENSE ./

# The slim worker: base dependencies only, in the versions of the lock file.
FROM base AS worker
COPY worker ./worker
RUN pip install --constraint requirements.lock . \
 && rm -rf build
USER arke
WORKDIR /data
ENTRYPOINT ["python", "-m", "worker"]

# The service. It needs keys, since it must listen on more than loopback to be reached:
#   docker run --init -p 8787:8787 -v arke:/data -e API_KEYS=… -e ADMIN_KEY=… arke-orchestrator
# Ray wants shared memory: add --shm-size=1g.
FROM base AS orchestrator
COPY orchestrator ./orchestrator
COPY actors ./actors
COPY worker ./worker
RUN pip install --constraint requirements.lock '.[service]' \
 && rm -rf build
USER arke
WORKDIR /data
ENV HOST=0.0.0.0 PORT=8787 DATA_DIR=/data
EXPOSE 8787
VOLUME /data
STOPSIGNAL SIGTERM
ENTRYPOINT ["arke"]
CMD ["serve", "--log", "-", "--no-dashboard"]
