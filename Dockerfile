# syntax=docker/dockerfile:1

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# The work tree's .git stays outside (.dockerignore), so the version is handed in: --build-arg VERSION=$(git describe --tags)
ARG VERSION=dev TARGETOS TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/millrace ./cmd/millrace && \
    mkdir /out/data

# Nothing but the binary: no shell (so no `work --exec`; a worker image of your own copies /millrace from this one), no libc.
# The certificates are for rediss://, https:// webhooks and OTLP.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/millrace /millrace
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
ENV MILLRACE_DATA_DIR=/data
VOLUME /data
HEALTHCHECK CMD ["/millrace","health","--server","http://127.0.0.1:8080"]
ENTRYPOINT ["/millrace"]
