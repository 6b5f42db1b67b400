/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Indirect functions (STT_GNU_IFUNC): a resolver says at load time which of several functions callers get.
 *
 * Exercises: an exported one (JUMP_SLOT and 64 against an indirect symbol in a shared object, PLT32 in a relocatable
 * object), a local one (IRELATIVE in a shared object), and a pointer to one in initialized data. The resolvers ask CPUID.
 */
#include <stdint.h>

typedef uint64_t sum_t(const uint8_t *data, uint64_t n);

static uint64_t sum_by_one(const uint8_t *data, uint64_t n)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < n; i++)
		sum += data[i];
	return sum;
}

static uint64_t sum_by_two(const uint8_t *data, uint64_t n)
{
	uint64_t even = 0, odd = 0;

	for (uint64_t i = 0; i + 1 < n; i += 2) {
		even += data[i];
		odd += data[i + 1];
	}
	return even + odd + (n & 1 ? data[n - 1] : 0);
}

static int has_sse2(void)
{
	uint32_t a = 1, b, c = 0, d;

	__asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	return d >> 26 & 1;
}

static __attribute__((used)) sum_t *choose_sum(void)
{
	return has_sse2() ? sum_by_two : sum_by_one;
}

static uint64_t parity_of(uint64_t x)
{
	x ^= x >> 32;
	x ^= x >> 16;
	x ^= x >> 8;
	x ^= x >> 4;
	return 0x6996 >> (x & 15) & 1;
}

static __attribute__((used)) uint64_t (*choose_parity(void))(uint64_t)
{
	return parity_of;
}

uint64_t ifunc_sum(const uint8_t *data, uint64_t n) __attribute__((ifunc("choose_sum")));
static uint64_t parity(uint64_t x) __attribute__((ifunc("choose_parity")));

static sum_t *volatile table[] = { sum_by_one, ifunc_sum };

/* Twice the sum of the bytes, once by name and once by a pointer, plus its parity in bit 63. */
uint64_t ifunc_both(const uint8_t *data, uint64_t n)
{
	uint64_t sum = ifunc_sum(data, n) + table[1](data, n);

	return sum | parity(sum) << 63;
}
