# ctglip serve in a container: as a user of its own, on a read-only root, with one volume for what is uploaded.
#   docker build --target cpu -t ctglip:cpu .          docker build --target cuda -t ctglip:cuda .
# compose.yaml runs it on this machine alone.
FROM python:3.11-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HF_HUB_OFFLINE=1 MPLCONFIGDIR=/tmp/matplotlib \
    CTGLIP_CACHE=/data
RUN useradd --uid 10001 --create-home ctglip && install -d -o ctglip -m 700 /data
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY ctglip ctglip
COPY preprocessing preprocessing
COPY organ_dictionary organ_dictionary
COPY abnormality_dictionary abnormality_dictionary
COPY configs configs
EXPOSE 8765
VOLUME /data
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8765/health', timeout=4)"]
ENTRYPOINT ["ctglip", "serve", "--host", "0.0.0.0", "--folder", "/data/serve", "--token-file", "/run/secrets/token"]
CMD ["/run/model"]

FROM base AS cpu
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt '.[serve]'
USER ctglip

FROM base AS cuda
RUN pip install -c constraints.txt '.[serve]'
USER ctglip
