/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Functions with a stack canary (built with -fstack-protector-all).
 *
 * Exercises: loads and compares with an fs: segment override (fs:0x28), and a call that never returns as the last
 * instruction of a function, behind which nothing may be decoded.
 */
#include <stdint.h>

/* Ours and local, so that the image needs no library: a smashed stack is an invalid opcode. */
static __attribute__((used, noreturn, no_stack_protector)) void stack_check_failed(void) __asm__("__stack_chk_fail");

static void stack_check_failed(void)
{
	__builtin_trap();
}

/* Hash of the first `n` (at most 32) bytes, last one first, through a buffer on the stack. */
uint64_t canary_hash(const uint8_t *data, uint64_t n)
{
	volatile uint8_t copy[32];
	uint64_t hash = 5381;

	if (n > sizeof(copy))
		n = sizeof(copy);
	for (uint64_t i = 0; i < n; i++)
		copy[n - 1 - i] = data[i];
	for (uint64_t i = 0; i < n; i++)
		hash = hash * 33 ^ copy[i];
	return hash;
}

/* -fstack-protector-all guards this one too, though it has no buffer. */
int64_t canary_add(int64_t a, int64_t b)
{
	return a + b;
}
