/*-------------------------------------------------------------------------
 *
 * hash.c
 *	  SHA-256 and HMAC, by PostgreSQL's own.
 *
 * Built with OpenSSL, PostgreSQL notes each hash with the current resource
 * owner; a worker has none between two transactions, so that it gets one for
 * the moment.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/cryptohash.h"
#include "common/hmac.h"
#include "utils/resowner.h"

#include "net/hash.h"

/* True: it was made, and end_owner() is to release it. */
static bool
begin_owner(void)
{
	if (CurrentResourceOwner)
		return false;
	CurrentResourceOwner = ResourceOwnerCreate(NULL, "replica_ctl hash");
	return true;
}

static void
end_owner(bool made)
{
	ResourceOwner owner = CurrentResourceOwner;

	if (!made)
		return;
	/* Nothing is left in it but after an error. */
	ResourceOwnerRelease(owner, RESOURCE_RELEASE_BEFORE_LOCKS, false, true);
	CurrentResourceOwner = NULL;
	ResourceOwnerDelete(owner);
}

void
rctl_sha256(const void *bytes, size_t length, uint8 *hash)
{
	bool		made = begin_owner();
	bool		done;

	PG_TRY();
	{
		pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);

		done = context && pg_cryptohash_init(context) >= 0 &&
			pg_cryptohash_update(context, bytes, length) >= 0 &&
			pg_cryptohash_final(context, hash, RCTL_SHA256_LEN) >= 0;
		pg_cryptohash_free(context);
		if (!done)
			elog(ERROR, "could not compute a SHA-256 hash");
	}
	PG_FINALLY();
	{
		end_owner(made);
	}
	PG_END_TRY();
}

void
rctl_hmac_sha256(const void *key, size_t key_length, const void *bytes, size_t length, uint8 *hash)
{
	bool		made = begin_owner();
	bool		done;

	PG_TRY();
	{
		pg_hmac_ctx *context = pg_hmac_create(PG_SHA256);

		done = context && pg_hmac_init(context, key, key_length) >= 0 &&
			pg_hmac_update(context, bytes, length) >= 0 &&
			pg_hmac_final(context, hash, RCTL_SHA256_LEN) >= 0;
		pg_hmac_free(context);
		if (!done)
			elog(ERROR, "could not compute a keyed hash");
	}
	PG_FINALLY();
	{
		end_owner(made);
	}
	PG_END_TRY();
}

char *
rctl_hex(const uint8 *bytes, size_t length)
{
	static const char digits[] = "0123456789abcdef";
	char	   *hex = palloc(length * 2 + 1);

	for (size_t i = 0; i < length; i++)
	{
		hex[2 * i] = digits[bytes[i] >> 4];
		hex[2 * i + 1] = digits[bytes[i] & 15];
	}
	hex[length * 2] = '\0';
	return hex;
}
