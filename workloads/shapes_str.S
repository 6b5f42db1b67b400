/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * String instructions: several steps in one instruction, ended by a count or by a flag, in either direction.
 */
#include "shapes.inc"

/* (dst, src, n): copies; the number of bytes that RDI moved */
FUNC shape_rep_movsb
	mov	rcx, rdx
	mov	rax, rdi
	rep	movsb
	sub	rdi, rax
	lea	rax, [rdi + rcx]
	ret
END shape_rep_movsb

/* (dst, src, words): copies; the number of bytes that RSI moved */
FUNC shape_rep_movsq
	mov	rcx, rdx
	mov	rax, rsi
	rep	movsq
	sub	rsi, rax
	lea	rax, [rsi + rcx]
	ret
END shape_rep_movsq

/* (dst, byte, n): fills; the number of bytes that RDI moved */
FUNC shape_rep_stosb
	mov	r8, rdi
	mov	eax, esi
	mov	rcx, rdx
	rep	stosb
	sub	rdi, r8
	lea	rax, [rdi + rcx]
	ret
END shape_rep_stosb

/* (dst, value, words): fills with 32-bit words; the number of bytes that RDI moved */
FUNC shape_rep_stosd
	mov	r8, rdi
	mov	eax, esi
	mov	rcx, rdx
	rep	stosd
	sub	rdi, r8
	lea	rax, [rdi + rcx]
	ret
END shape_rep_stosd

/* (buf, byte, n): looks for the byte; 2 * bytes looked at + 1 if found. n is above 0. */
FUNC shape_repne_scasb
	xor	r8d, r8d
	mov	eax, esi
	mov	rcx, rdx
	repne	scasb
	sete	r8b
	sub	rdx, rcx
	lea	rax, [r8 + rdx * 2]
	ret
END shape_repne_scasb

/* (a, b, n): compares; 2 * bytes looked at + 1 if the first that differs is less in b. n is above 0. */
FUNC shape_repe_cmpsb
	xor	r8d, r8d
	mov	rcx, rdx
	repe	cmpsb
	setb	r8b
	sub	rdx, rcx
	lea	rax, [r8 + rdx * 2]
	ret
END shape_repe_cmpsb

/* (buf, n): the sum of n bytes; n is above 0 */
FUNC shape_lodsb
	mov	rcx, rsi
	mov	rsi, rdi
	xor	edx, edx
1:	lodsb
	movzx	eax, al
	add	rdx, rax
	dec	rcx
	jnz	1b
	mov	rax, rdx
	ret
END shape_lodsb

/* (dst, src): copies 15 bytes without rep; the number of bytes that RDI moved */
FUNC shape_movs_once
	mov	rax, rdi
	movsb
	movsw
	movsd
	movsq
	sub	rdi, rax
	mov	rax, rdi
	ret
END shape_movs_once

/* (buf, n, by): moves n bytes of the buffer up by `by`, last byte first; n */
FUNC shape_std_movsb
	lea	rax, [rdi + rsi - 1]
	mov	rcx, rsi
	mov	r8, rsi
	lea	rdi, [rax + rdx]
	mov	rsi, rax
	std
	rep	movsb
	cld
	sub	rax, rsi
	ret
END shape_std_movsb

/* (table, i): table[i & 255], with RBX as the implicit base */
FUNC shape_xlat
	push	rbx
	mov	rbx, rdi
	mov	eax, esi
	xlatb
	movzx	eax, al
	pop	rbx
	ret
END shape_xlat
