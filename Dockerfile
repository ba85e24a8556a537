# One static binary and nothing else: no shell, no package manager, no libc.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# `--target`, even for the host's own, keeps the flag from build scripts and
# procedural macros. Certificate authorities and time zones are compiled in, and
# glibc since 2.34 resolves names without loading modules, so nothing is missing
# from an empty image.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
 && RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --release --locked --target "$target" -p notifier --bin kms-notifier \
 && install -D "target/$target/release/kms-notifier" /out/kms-notifier

FROM scratch
COPY --from=build /out/kms-notifier /kms-notifier
# Nobody in particular; mount the log readable for this id.
USER 65532:65532
EXPOSE 9101
ENTRYPOINT ["/kms-notifier"]
CMD ["run"]
