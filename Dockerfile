# The gateway alone: no shell, no package manager, nothing writable needed.
#
#   docker build -t deskgate .
#   docker run --read-only --cap-drop ALL -p 80:80 \
#       -v ./payload:/config.payload:ro -v ./signing:/config.signing:ro deskgate
#
# It runs as uid 65532, which must be able to read the keys: `deskgate keygen` writes files that only its
# caller can read (mode 0600), so give those that are mounted to that uid.
#
# It listens on port 80 as that uid: docker (20.10) and containerd's CRI plugin (2.0) set
# net.ipv4.ip_unprivileged_port_start=0 in a container. Elsewhere (containerd 1.x, CRI-O,
# podman, host network) set that sysctl, as the manifests do, or configure higher ports.
#
# abcdesktop 3.x needs the web client as well: conf/kubernetes/overlays/abcdesktop-3/Dockerfile.

FROM rust:1-bookworm AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# zlib-ng is built with cmake. Debian keeps only the newest version, so none is named.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The commit's time, where the image is to be the same again.
ARG SOURCE_DATE_EPOCH=0
# The program is optimised for what it is seen to do here; PROFILED=no saves half of the time.
ARG PROFILED=yes
RUN if [ "$PROFILED" = yes ]; then \
        scripts/setup build profile && scripts/profile \
        && scripts/release --profile target/deskgate.profile; \
    else scripts/release; fi

# The program, the libraries it names, the system's certificates, and who it runs as.
RUN install -D -m 0755 target/release/deskgate /image/deskgate \
    && ldd /image/deskgate | grep -o '/[^ ]*' | xargs -I{} cp --parents --dereference {} /image \
    && install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
    && echo 'deskgate:x:65532:65532:deskgate:/:/sbin/nologin' >/image/etc/passwd \
    && echo 'deskgate:x:65532:' >/image/etc/group \
    && echo 'hosts: files dns' >/image/etc/nsswitch.conf

FROM scratch
COPY --from=build /image /
USER 65532:65532
EXPOSE 80 443
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["/deskgate", "health", "--url", "http://127.0.0.1:80/healthz"]
ENTRYPOINT ["/deskgate"]
CMD ["run"]
