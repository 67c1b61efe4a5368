#!/bin/sh
# A node of the cluster. Its address may be another one after a restart: it tells the others, which know it by its id.
set -eu
exec redis-server /etc/redis/redis.conf --cluster-enabled yes --cluster-config-file /data/nodes.conf \
  --cluster-node-timeout 5000 --cluster-announce-ip "$POD_IP" --cluster-announce-hostname "$(hostname).gatewatch-redis" \
  --cluster-preferred-endpoint-type hostname --cluster-require-full-coverage no \
  --masteruser replica --masterauth "$(cat /run/secrets/redis_password)"
