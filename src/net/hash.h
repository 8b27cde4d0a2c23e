/*-------------------------------------------------------------------------
 *
 * hash.h
 *	  SHA-256 and HMAC, by PostgreSQL's own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_HASH_H
#define REPLICA_CTL_NET_HASH_H

#define RCTL_SHA256_LEN 32

/* They need no transaction. */
extern void rctl_sha256(const void *bytes, size_t length, uint8 *hash);
extern void rctl_hmac_sha256(const void *key, size_t key_length,
							 const void *bytes, size_t length, uint8 *hash);

/* Lower case, palloc'd. */
extern char *rctl_hex(const uint8 *bytes, size_t length);

#endif							/* REPLICA_CTL_NET_HASH_H */
