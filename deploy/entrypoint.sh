#!/bin/sh
# How a container starts: with its environment whole, or with the name of the variable that is missing, and exit code 1.
# What is set and wrong, and Flower without a login, the program itself refuses, by the variable's name as well.
set -eu

refuse() {
    echo "error: $1" >&2
    exit 1
}

is_set() {
    for name; do [ -n "$(printenv "$name")" ] || return 1; done
}

# The default, localhost, would be this container.
is_set KAGURA_TASKS_REDIS_URL || is_set KAGURA_TASKS_BROKER_URL KAGURA_TASKS_RESULT_URL KAGURA_TASKS_CACHE_URL ||
    refuse "KAGURA_TASKS_REDIS_URL is not set: it is the address of Redis, such as redis://redis:6379/0"

case " $* " in
*" worker "*)
    # Any provider's will do here. Which one a call needs, its model says.
    printenv | grep -Eq '^([A-Z0-9_]+_API_(KEY|TOKEN|BASE)|AWS_[A-Z_]+|AZURE_[A-Z_]+|GOOGLE_[A-Z_]+|VERTEX[A-Z_]+)=.' ||
        refuse "OPENAI_API_KEY is not set, nor any other provider's key, and no address of your own models (OPENAI_API_BASE)"
    ;;
esac
exec "$@"
