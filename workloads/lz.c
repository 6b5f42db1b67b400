/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A decompressor for a simple LZ77 format.
 *
 * Exercises: data-dependent branches, byte copies that overlap themselves, early returns (several ret in one
 * function), zero-extending byte and word loads.
 *
 * The format, a sequence of:
 *   0lllllll                 followed by l + 1 literal bytes
 *   1lllllll dddddddd dddddddd   copy l + 3 bytes from d bytes back in the output; d is little-endian, 1 or more
 */
#include <stdint.h>

#define BAD UINT64_MAX

/* Returns the number of bytes written, or BAD when the source is damaged or the destination too small. */
uint64_t lz_decompress(const uint8_t *src, uint64_t srclen, uint8_t *dst, uint64_t dstcap)
{
	uint64_t in = 0, out = 0;

	while (in < srclen) {
		uint8_t token = src[in++];

		if (token & 0x80) {
			uint64_t count = (token & 0x7f) + 3;

			if (srclen - in < 2)
				return BAD;

			uint64_t back = src[in] | (uint64_t)src[in + 1] << 8;

			in += 2;
			if (back == 0 || back > out || count > dstcap - out)
				return BAD;
			for (; count; count--, out++)
				dst[out] = dst[out - back];
		} else {
			uint64_t count = token + 1;

			if (count > srclen - in || count > dstcap - out)
				return BAD;
			for (; count; count--)
				dst[out++] = src[in++];
		}
	}
	return out;
}
