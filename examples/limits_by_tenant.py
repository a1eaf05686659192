"""Two tenants share one limit: whoever sends little does not wait behind whoever sends much.

Start workers that make two calls at a time, all of them together:

    export KAGURA_TASKS_LIMITS='{"*": {"concurrency": 2}}'
    make up

Then run `python limits_by_tenant.py` in a terminal with KAGURA_TASKS_REDIS_URL, and in another `kagura-tasks limits
--watch`. The small tenant has its answers long before the large one.
"""

import time

from kagura_tasks import LLMClient


def main() -> None:
    client, began = LLMClient(), time.monotonic()
    large = [client.submit(f"Name a town with {number} letters.", tenant="large") for number in range(3, 23)]
    small = [client.submit(f"Name a river of {number} km.", tenant="small") for number in (100, 200)]
    for tenant, results in (("small", small), ("large", large)):
        for result in results:
            answer = result.get()
            print(f"{time.monotonic() - began:6.2f} s  {tenant}: {answer.text}")


if __name__ == "__main__":
    main()
