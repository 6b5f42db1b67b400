/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * An interpreter for a byte code of a stack machine.
 *
 * Exercises: a switch by jump table. Non-PIC code jumps through memory (jmp *table(,%reg,8), absolute entries that
 * are relocated), PIC code by register (relative entries), with -fcf-protection behind a notrack prefix. Functions that
 * jump by register or memory are those whose jump targets a prober can't know.
 *
 * The machine: 16 slots of 64-bit integers that wrap; slot `sp - 1` is the top. One byte an operation:
 *   0 HALT          end, the top is the result (0 when empty)
 *   1 PUSH imm8     push a sign-extended byte
 *   2 ARG           push the argument
 *   3 ADD  4 SUB  5 MUL  6 AND  7 XOR     pop b, pop a, push a op b
 *   8 DUP  9 DROP  10 SWAP  11 OVER
 *   12 JNZ rel8     pop; not zero: jump, relative to the next operation
 *   13 SHR imm8     logical shift of the top by imm8 & 63
 * An unknown operation, too few or too many items, or the end of the code without HALT give ERROR.
 */
#include <stdint.h>

#define SLOTS 16
#define ERROR (-0x7fffffffffffffff - 1)

#define NEED(items) do { if (sp < (items)) return ERROR; } while (0)
#define ROOM() do { if (sp == SLOTS) return ERROR; } while (0)
#define IMM(name) do { if (pc == len) return ERROR; name = (int8_t)code[pc++]; } while (0)
#define BINARY(op) do { NEED(2); sp--; stack[sp - 1] = stack[sp - 1] op stack[sp]; } while (0)

int64_t interp(const uint8_t *code, uint64_t len, int64_t arg)
{
	uint64_t stack[SLOTS], sp = 0, pc = 0, t;
	int64_t imm;

	while (pc < len) {
		switch (code[pc++]) {
		case 0:
			return sp ? (int64_t)stack[sp - 1] : 0;
		case 1:
			IMM(imm);
			ROOM();
			stack[sp++] = (uint64_t)imm;
			break;
		case 2:
			ROOM();
			stack[sp++] = (uint64_t)arg;
			break;
		case 3:
			BINARY(+);
			break;
		case 4:
			BINARY(-);
			break;
		case 5:
			BINARY(*);
			break;
		case 6:
			BINARY(&);
			break;
		case 7:
			BINARY(^);
			break;
		case 8:
			NEED(1);
			ROOM();
			stack[sp] = stack[sp - 1];
			sp++;
			break;
		case 9:
			NEED(1);
			sp--;
			break;
		case 10:
			NEED(2);
			t = stack[sp - 1];
			stack[sp - 1] = stack[sp - 2];
			stack[sp - 2] = t;
			break;
		case 11:
			NEED(2);
			ROOM();
			stack[sp] = stack[sp - 2];
			sp++;
			break;
		case 12:
			IMM(imm);
			NEED(1);
			if (stack[--sp])
				pc += (uint64_t)imm; /* out of bounds either way ends the loop */
			break;
		case 13:
			IMM(imm);
			NEED(1);
			stack[sp - 1] >>= imm & 63;
			break;
		default:
			return ERROR;
		}
	}
	return ERROR;
}
