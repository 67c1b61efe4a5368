#!/bin/sh
# Makes a cluster of the six nodes, unless they are one.
set -eu
REDISCLI_AUTH=$(cat /run/secrets/redis_password)
export REDISCLI_AUTH
nodes=
for number in 0 1 2 3 4 5; do
  host=gatewatch-redis-$number.gatewatch-redis
  redis-cli --user operator -h "$host" ping | grep -q PONG
  nodes="$nodes $host:6379"
done
if redis-cli --user operator -h gatewatch-redis-0.gatewatch-redis cluster info | grep -q '^cluster_state:ok'; then
  echo "they are a cluster"
  exit 0
fi
# shellcheck disable=SC2086 - one argument a node
redis-cli --user operator --cluster create $nodes --cluster-replicas 1 --cluster-yes
