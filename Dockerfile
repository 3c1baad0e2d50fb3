# The image for those who build with Docker or Podman; `cargo xtask image` makes the same without either.
#
#   docker build -t heddle.io/heddle:0.1.0 .
#   docker buildx build --platform linux/arm64 -t heddle.io/heddle:0.1.0 .      # under emulation
#
# The builder needs a network, for Debian's packages (LLVM among them, which links BPF programs) and for crates.
FROM rust:1.95-bookworm AS build
WORKDIR /heddle
COPY . .
# Sets up what the image of Debian lacks (compilers, bpf-linker: minutes), then builds the BPF object, which the agent's
# build takes in.
RUN cargo xtask build-ebpf
RUN cargo build --locked --profile dist -p mesh-agent --bin mesh-agent \
    && install -D -s target/dist/mesh-agent /out/mesh-agent \
    && ln -s mesh-agent /out/heddle

# glibc, libgcc and the loader, no shell; the same glibc as the builder's.
FROM gcr.io/distroless/cc-debian12:nonroot
# One program under two names.
COPY --from=build /out/ /usr/local/bin/
# Nobody, unless the pod says otherwise: the node agent's does, the controller's does not.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/mesh-agent"]
