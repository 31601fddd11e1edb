# What `cargo xtask dist` made, in the smallest system that runs it:
#   cargo xtask dist && docker build -t nvllm . && docker run -p 8000:8000 nvllm
# For an NVIDIA GPU: docker run --gpus all -p 8000:8000 nvllm -m Qwen/Qwen3-0.6B
FROM debian:bookworm-slim
COPY .dist/nvllm-*-linux/nvllm /usr/local/bin/nvllm
RUN useradd --home-dir /srv/nvllm --create-home nvllm
USER nvllm
# The hub's cache; mount it to keep what was fetched.
VOLUME /srv/nvllm/.cache
EXPOSE 8000
# Docker's signal is SIGTERM: requests that run are finished first.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/nvllm", "serve", "--host", "0.0.0.0"]
