/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a loader has to resolve.
 *
 * Exercises: global functions and data that are reached through the PLT and the GOT in a shared object (JUMP_SLOT and
 * GLOB_DAT), by absolute 32-bit addresses in a relocatable object; function pointers in initialized data; .bss.
 * -fcf-protection gives the shared object a second PLT whose entries start with endbr64.
 */
#include <stdint.h>

/* Default visibility on purpose: a library preloaded before us might replace them, so PIC code can't reach them directly. */
int64_t dyn_bias = 1000;
int64_t dyn_total[4];

__attribute__((noinline)) int64_t dyn_step(int64_t x)
{
	return x * 3 + dyn_bias;
}

static int64_t negate(int64_t x)
{
	return -x;
}

static int64_t square(int64_t x)
{
	return x * x;
}

typedef int64_t op_fn(int64_t x);

op_fn *dyn_ops[4] = { dyn_step, negate, square, dyn_step };

/* Calls by name. */
int64_t dyn_twice(int64_t x)
{
	return dyn_step(dyn_step(x) + 1) + 1;
}

/* Calls through the table; the running totals live in .bss. */
int64_t dyn_apply(int64_t x, uint64_t which)
{
	which &= 3;
	dyn_total[which] += dyn_ops[which](x);
	dyn_total[3] += dyn_total[which];
	return dyn_total[3] * 2 + dyn_total[0];
}
