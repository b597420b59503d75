# Two images, each with one static program and the certificates of the public authorities:
#
#   docker build --target derper -t derper .
#   docker build --target headscale -t headscale .
#
# There is no shell in them: the programs read their environment themselves.
ARG GO=docker.io/library/golang:1.26

FROM ${GO} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
ARG COMMIT=unknown
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false \
	-ldflags "-s -w -X main.version=${VERSION} -X main.commit=${COMMIT}" \
	-o /out/ ./cmd/headscale ./cmd/derper
# What every image has besides its program.
RUN mkdir -p /rootfs/etc/ssl/certs /rootfs/tmp /rootfs/var/run \
	&& chmod 1777 /rootfs/tmp \
	&& cp /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/certs/

# A relay. Certificates are in /app/certs, where the guides put them, and the relay's key is
# in /var/lib/derper: keep both, or clients must learn a new pin.
FROM scratch AS derper
COPY --from=build /rootfs/ /
COPY --from=build /out/derper /usr/bin/derper
ENV PATH=/usr/bin DERP_CERT_DIR=/app/certs
VOLUME /app/certs /var/lib/derper
EXPOSE 443/tcp 80/tcp 3478/udp
ENTRYPOINT ["/usr/bin/derper"]

# The control server. Its data is in /var/lib/headscale, its configuration, if there is any,
# in /etc/headscale/config.yaml. `docker exec CONTAINER headscale users list` works.
FROM scratch AS headscale
COPY --from=build /rootfs/ /
COPY --from=build /out/headscale /usr/bin/headscale
ENV PATH=/usr/bin
VOLUME /var/lib/headscale
EXPOSE 8080/tcp 443/tcp 3478/udp
ENTRYPOINT ["/usr/bin/headscale"]
CMD ["serve"]
