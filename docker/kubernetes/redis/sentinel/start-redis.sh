#!/bin/sh
# A replica of whom Sentinel calls the master; where there is no Sentinel yet, of the first pod, which is the master.
set -eu
own="$(hostname).gatewatch-redis"
password=$(cat /run/secrets/redis_password)
master=$(timeout 3 redis-cli -h gatewatch-redis -p 26379 --user gatewatch --pass "$password" --no-auth-warning --raw \
  sentinel get-master-addr-by-name gatewatch 2>/dev/null | head -n 1 || true)
case $master in gatewatch-redis-*) ;; *) master=gatewatch-redis-0.gatewatch-redis ;; esac
set -- /etc/redis/redis.conf --replica-announce-ip "$own" --masteruser replica --masterauth "$password"
[ "$master" = "$own" ] || set -- "$@" --replicaof "$master 6379"
exec redis-server "$@"
