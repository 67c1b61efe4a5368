#!/bin/sh
# Three of them agree by two. It writes what it learns into its configuration, which is why that is in /tmp.
set -eu
password=$(cat /run/secrets/redis_password)
hash=$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)
others=$(timeout 3 redis-cli -h gatewatch-redis -p 26379 --user gatewatch --pass "$password" --no-auth-warning --raw \
  sentinel get-master-addr-by-name gatewatch 2>/dev/null | head -n 1 || true)
case $others in gatewatch-redis-*) master=$others ;; *) master=gatewatch-redis-0.gatewatch-redis ;; esac
cat >/tmp/sentinel.conf <<END
port 26379
dir /tmp
user default off
user gatewatch on #$hash allchannels +auth +hello +ping +role +info +subscribe +psubscribe +client|setname +sentinel|get-master-addr-by-name +sentinel|master +sentinel|masters +sentinel|replicas +sentinel|slaves +sentinel|sentinels +sentinel|myid
user sentinel on #$hash allchannels +@all
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $(hostname).gatewatch-redis
sentinel sentinel-user sentinel
sentinel sentinel-pass $password
sentinel monitor gatewatch $master 6379 2
sentinel auth-user gatewatch sentinel
sentinel auth-pass gatewatch $password
sentinel down-after-milliseconds gatewatch 5000
sentinel failover-timeout gatewatch 30000
END
exec redis-server /tmp/sentinel.conf --sentinel
