# The three programs, static, and nothing else: no shell, no package manager, no libc.
FROM rust:1.95-bookworm AS build
ARG REVISION=unknown
WORKDIR /src
COPY . .
# `--target`, even for the host's own, keeps the flag from build scripts and
# procedural macros. Certificate authorities and time zones are compiled in, and
# names are looked up without the C library, so nothing is missing from an empty
# image. `getrandom_backend`: a static program cannot look the system call up by
# name, and would want /dev/urandom. deploy/image-check runs this command and holds
# its result to all that.
RUN target="$(rustc --print host-tuple)" \
 && export KMS_NOTIFIER_REVISION="$REVISION" \
    RUSTFLAGS="-C target-feature=+crt-static --cfg getrandom_backend=\"linux_getrandom\"" \
 && cargo build --release --locked --target "$target" --bin kms-notifier --bin kms-core --bin kms-diag \
 && install -D -t /out "target/$target/release/kms-notifier" \
    "target/$target/release/kms-core" "target/$target/release/kms-diag"

FROM scratch
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kms-notifier" \
      org.opencontainers.image.description="Follows a KMS server's log and tells what happened; kms-core and kms-diag are in it, too" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /out/ /
# Nobody in particular; mount the log readable for this id.
USER 65532:65532
EXPOSE 9101
ENTRYPOINT ["/kms-notifier"]
CMD ["run"]
