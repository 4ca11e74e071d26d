# One image for every process: `netwright api`, `serve`, `worker`, `migrate`, or `up` for all of it in one container.
FROM python:3.11-slim-bookworm AS build
# PyTorch's package index: the CPU build by default. Empty takes PyPI's, which on x86-64 brings CUDA along.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/netwright
WORKDIR /src
COPY requirements.lock ./
RUN /opt/netwright/bin/pip install --no-deps --require-hashes -r requirements.lock \
 && /opt/netwright/bin/pip install ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} torch==2.13.0
COPY pyproject.toml README.md LICENSE ./
COPY netwright netwright
COPY api api
COPY serve serve
COPY worker worker
COPY web web
COPY search search
COPY ingest ingest
COPY store store
COPY migrations migrations
RUN /opt/netwright/bin/pip install --no-deps .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home --home-dir /home/netwright netwright \
 && install --directory --owner netwright --group netwright --mode 0750 /var/lib/netwright
COPY --from=build /opt/netwright /opt/netwright
ENV PATH=/opt/netwright/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NETWRIGHT_HOME=/var/lib/netwright \
    NETWRIGHT_HOST=0.0.0.0 \
    NETWRIGHT_PORT=8000
USER netwright
WORKDIR /home/netwright
VOLUME /var/lib/netwright
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["netwright"]
CMD ["up"]
