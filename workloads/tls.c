/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Thread-local data.
 *
 * Exercises: in a relocatable object TPOFF32 and, for `tls_fast`, GOTTPOFF; in a shared object TLS descriptors (TLSDESC,
 * -mtls-dialect=gnu2: a call through a pointer in memory that keeps all registers but RAX) and TPOFF64 for `tls_fast`.
 * .tdata with initial values, .tbss behind it.
 */
#include <stdint.h>

static __thread int64_t counter = 100;
static __thread uint8_t history[48];
__thread int64_t tls_last = -1;
__thread __attribute__((tls_model("initial-exec"))) int64_t tls_fast = 5;

/* The old value of tls_last, times 1000, plus the counter after `step` has been added. */
int64_t tls_count(int64_t step)
{
	int64_t before = tls_last;

	counter += step;
	tls_last = step;
	tls_fast += 2;
	return before * 1000 + counter;
}

/* Sum of the first `n` (at most 48) bytes, each in the place of an earlier one, which counts too; plus 5 for tls_fast. */
uint64_t tls_sum(const uint8_t *data, uint64_t n)
{
	uint64_t sum = (uint64_t)tls_fast;

	if (n > sizeof(history))
		n = sizeof(history);
	for (uint64_t i = 0; i < n; i++) {
		sum += history[i / 2];
		history[i / 2] = data[i];
		sum += data[i];
	}
	return sum;
}
