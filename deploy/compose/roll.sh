#!/bin/sh
# Replaces the replicas of the service `gpu` or `cpu` by new ones, one by one and without a lost request, after a change
# of the image, of docker-compose.yml or of .env:
#
#     docker compose build gpu && deploy/compose/roll.sh gpu
#
# `docker compose up` would stop all of them first. There is one replica more for a while, so its memory must be free.
# If a new one does not get ready, it is removed and the old ones stay.
set -eu
service=${1:?usage: roll.sh gpu|cpu}
compose=${COMPOSE:-docker compose}

some=$($compose ps -q "$service" | head -n 1)
project=$(docker inspect -f '{{index .Config.Labels "com.docker.compose.project"}}' "$some")

replicas() {
    docker ps -q --no-trunc --filter "label=com.docker.compose.project=$project" \
        --filter "label=com.docker.compose.service=$service"
}

for old in $(replicas); do
    before=$(replicas)
    count=$(($(echo "$before" | wc -l) + 1))
    $compose up -d --no-deps --no-build --no-recreate --scale "$service=$count" "$service"
    for new in $(replicas); do
        case $before in *"$new"*) continue ;; esac
        until [ "$(docker inspect -f '{{.State.Health.Status}}' "$new")" = healthy ]; do
            if [ "$(docker inspect -f '{{.State.Health.Status}} {{.RestartCount}}' "$new")" != "starting 0" ]; then
                docker logs --tail 5 "$new" >&2
                docker rm -f "$new" >&2
                echo "roll.sh: the new replica did not get ready; the old ones stay" >&2
                exit 1
            fi
            sleep 1
        done
    done
    # The balancer looks for new replicas every second, and asks them every second.
    sleep 3
    docker stop "$old"
    docker rm "$old"
done
