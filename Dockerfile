# Two images from one tree:
#   docker build --target worker -t arke-worker .
#   docker build --target orchestrator -t arke-orchestrator .
# Both run as user 10001, who owns nothing but /data. tests/integration/images/ takes the steps of this file in a
# virtual environment: what is a step here and cannot be taken there fails that test.
#
# Versions are those of requirements.lock. A tag of the base can be given another content: for images that are the same
# to the byte name it with its digest, --build-arg BASE=python:3.12.12-slim-bookworm@sha256:… (docs/how-to).
ARG BASE=python:3.12.12-slim-bookworm

# Packages go into /opt/arke, which is all that the images take over from here: no pip, no compiler, no cache.
FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# What builds our own wheel: the one tool that the lock file does not name.
RUN pip install setuptools==84.2.1
RUN python -m venv --without-pip /opt/arke
WORKDIR /build
COPY requirements.lock pyproject.toml README.md LICENSE ./

# The slim worker: `dependencies` of pyproject.toml alone. botocore knows 440 services, the worker one: 20 MB less.
# `arke` is not part of it. Bytecode is checked by nothing at run time, so it depends on no file's date.
FROM build AS worker-build
COPY worker ./worker
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /build/wheels . \
 && pip --python /opt/arke/bin/python install --no-compile --constraint requirements.lock /build/wheels/*.whl \
 && find /opt/arke/lib/python3*/site-packages/botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 -exec rm -r {} + \
 && rm /opt/arke/bin/arke \
 && /opt/arke/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/arke/lib

# The official XML schemas, each checked by its SHA-256 where that is known. Without internet, or with files of your
# own: --build-context schemas=FOLDER takes the place of this stage.
FROM worker-build AS schemas-build
RUN /opt/arke/bin/python -P -m worker.kinds.mods /build/schemas
FROM scratch AS schemas
COPY --from=schemas-build /build/schemas /

FROM build AS orchestrator-build
COPY orchestrator ./orchestrator
COPY actors ./actors
COPY worker ./worker
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /build/wheels . \
 && pip --python /opt/arke/bin/python install --no-compile --constraint requirements.lock "$(echo /build/wheels/*.whl)[service]" \
 && /opt/arke/bin/python -P -m orchestrator.cluster haproxy /opt/arke/haproxy \
 && /opt/arke/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/arke/lib
COPY deploy/node_certificate.sh /opt/arke/bin/arke-node-certificate

FROM ${BASE} AS base
ENV PATH=/opt/arke/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ARKE_SCHEMAS=/usr/share/arke/schemas
RUN useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin arke \
 && install -d -o arke -g arke /data
COPY --from=schemas / /usr/share/arke/schemas/
WORKDIR /data

# No HEALTHCHECK: it listens nowhere, and the service looks after its machines. SIGTERM and SIGINT reach it as process 1,
# and it gives its tasks back.
FROM base AS worker
COPY --from=worker-build /opt/arke /opt/arke
USER 10001:10001
ENTRYPOINT ["python", "-P", "-m", "worker"]

# The service. It needs keys, since it must listen on more than loopback to be reached:
#   docker run --init -p 8787:8787 -v arke:/data -e API_KEYS=… -e ADMIN_KEY=… arke-orchestrator
# Ray wants shared memory: add --shm-size=1g. It is the image of the nodes of a cluster, too: KubeRay's probes call wget,
# the nodes' certificates are made with openssl, and a login shell (KubeRay starts Ray in one) forgets PATH.
FROM base AS orchestrator
RUN apt-get update \
 && apt-get install --yes --no-install-recommends openssl wget \
 && rm -rf /var/lib/apt/lists/* \
 && ln -s /opt/arke/bin/arke /opt/arke/bin/ray /opt/arke/bin/serve /usr/bin/
COPY --from=orchestrator-build /opt/arke /opt/arke
USER 10001:10001
ENV HOST=0.0.0.0 PORT=8787 DATA_DIR=/data
EXPOSE 8787
VOLUME /data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD wget -q -T 4 -O /dev/null "http://127.0.0.1:$PORT/health" || exit 1
ENTRYPOINT ["arke"]
CMD ["serve", "--log", "-", "--no-dashboard"]
