# One image with both programs, millrace and gate; the command says which runs.
# docker build --tag millrace .

FROM --platform=$BUILDPLATFORM golang:1.26-alpine AS build
WORKDIR /src
# The modules first: this layer is made anew only when they change.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS TARGETARCH
# Without cgo the programs are static and need nothing of the image they run in.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/cache \
    GOCACHE=/cache CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags="-s -w" -o /out/ ./cmd/millrace ./cmd/gate

# Alpine for its certificate roots and for the wget of the health check.
FROM alpine:3.22
COPY --from=build /out/millrace /out/gate /usr/local/bin/
# A number, so that a platform that demands a user other than root can see it; no such account is needed.
USER 10001:10001
# 8080 gate, 8081 API, 9090 health and metrics of each.
EXPOSE 8080 8081 9090
# Each program answers this once it can serve; what never does, such as a migration, switches the check off.
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 \
    CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:9090/readyz"]
CMD ["millrace", "serve"]
