/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every conditional jump, in its short (7x rel8) and its near (0f 8x rel32) form.
 *
 * shape_jcc_short_CC(a, b), shape_jcc_near_CC(a, b): compare a with b; 1 when the jump is taken, 2 when not.
 */
#include "shapes.inc"

.macro JCC form, cc, prefix:vararg
FUNC shape_jcc_\form\()_\cc
	mov	eax, 1
	cmp	rdi, rsi
	\prefix	j\cc	1f
	mov	eax, 2
1:	ret
END shape_jcc_\form\()_\cc
.endm

	.irp	cc, o, no, b, ae, e, ne, be, a, s, ns, p, np, l, ge, le, g
	JCC	short, \cc
	JCC	near, \cc, {disp32}
	.endr
