/*-------------------------------------------------------------------------
 *
 * aws_sign.c
 *	  Signs requests to Amazon (version 4), by Amazon's clock.
 *
 * libcurl could sign as well, but each of its releases in a way of its own,
 * and only by this host's clock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <stdlib.h>

#include "pgtime.h"

#include "net/hash.h"
#include "net/http_internal.h"
#include "provider/aws_credentials.h"

#define ALGORITHM "AWS4-HMAC-SHA256"

/* A difference that Amazon does not mind is no reason to distrust our clock. */
#define CLOCK_TOLERANCE (4 * 60 * USECS_PER_SEC)

static int64 clock_offset = 0;	/* Amazon's clock minus ours, microseconds */

/* ---- the clock ---- */

TimestampTz
rctl_aws_clock(void)
{
	return GetCurrentTimestamp() + clock_offset;
}

bool
rctl_aws_clock_learn(const RctlHttpResponse *response)
{
	int64		before = clock_offset;
	int64		difference;

	if (response->date == 0)
		return false;
	difference = response->date - GetCurrentTimestamp();
	clock_offset = llabs(difference) > CLOCK_TOLERANCE ? difference : 0;
	return llabs(clock_offset - before) > CLOCK_TOLERANCE / 2;
}

/* 20261122T010203Z */
static char *
amz_date(TimestampTz at)
{
	pg_time_t	seconds = timestamptz_to_time_t(at);
	struct pg_tm *tm = pg_gmtime(&seconds);

	return psprintf("%04d%02d%02dT%02d%02d%02dZ", tm->tm_year + 1900, tm->tm_mon + 1, tm->tm_mday,
					tm->tm_hour, tm->tm_min, tm->tm_sec);
}

/* ---- the canonical request ---- */

static int
compare_strings(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* Lower case name, ':', value trimmed and with runs of blanks as one. */
static char *
canonical_header(const char *name, const char *value)
{
	StringInfoData out;

	initStringInfo(&out);
	for (const char *p = name; *p; p++)
		appendStringInfoChar(&out, pg_ascii_tolower((unsigned char) *p));
	appendStringInfoChar(&out, ':');
	value += strspn(value, " \t");
	while (*value)
	{
		size_t		blanks = strspn(value, " \t");

		if (blanks == 0)
			appendStringInfoChar(&out, *value++);
		else
		{
			value += blanks;
			if (*value)
				appendStringInfoChar(&out, ' ');
		}
	}
	return out.data;
}

/* The parameters sorted; each has a '='. */
static char *
canonical_query(const char *query)
{
	StringInfoData out;
	char	   *copy = pstrdup(query ? query : "");
	char	  **parts = palloc(sizeof(char *) * (strlen(copy) / 2 + 2));
	int			count = 0;
	char	   *next;

	for (char *part = copy; part && *part; part = next)
	{
		next = strchr(part, '&');
		if (next)
			*next++ = '\0';
		if (*part)
			parts[count++] = strchr(part, '=') ? part : psprintf("%s=", part);
	}
	qsort(parts, count, sizeof(char *), compare_strings);
	initStringInfo(&out);
	for (int i = 0; i < count; i++)
		appendStringInfo(&out, "%s%s", i > 0 ? "&" : "", parts[i]);
	return out.data;
}

/* Encoded once more, but for the slashes. */
static char *
canonical_path(const char *path)
{
	StringInfoData out;

	initStringInfo(&out);
	for (;;)
	{
		size_t		length = strcspn(path, "/");

		appendStringInfoString(&out, rctl_http_encode(pnstrdup(path, length)));
		if (path[length] == '\0')
			return out.data;
		appendStringInfoChar(&out, '/');
		path += length + 1;
	}
}

/* Returns the canonical request's hash in hex, and the names of the signed headers. */
static char *
canonical_hash(const RctlHttpRequest *request, char **signed_headers)
{
	StringInfoData text;
	StringInfoData names;
	RctlHttpUrl url;
	uint8		hash[RCTL_SHA256_LEN];
	char	  **lines;
	int			count = 0;

	for (const RctlHttpHeader *h = request->headers; h->name; h++)
		count++;
	lines = palloc(sizeof(char *) * (count + 1));
	count = 0;
	if (rctl_http_url_parse(request->url, &url) != NULL)
		url.authority = url.path = "";	/* it will be refused when it is sent */
	lines[count++] = canonical_header("host", url.authority);
	for (const RctlHttpHeader *h = request->headers; h->name; h++)
		if (h->value && *h->value)
			lines[count++] = canonical_header(h->name, h->value);
	qsort(lines, count, sizeof(char *), compare_strings);

	initStringInfo(&text);
	initStringInfo(&names);
	appendStringInfo(&text, "%s\n%s\n%s\n", request->method ? request->method : "GET",
					 canonical_path(url.path), canonical_query(url.query));
	for (int i = 0; i < count; i++)
	{
		appendStringInfo(&text, "%s\n", lines[i]);
		if (i > 0)
			appendStringInfoChar(&names, ';');
		appendBinaryStringInfo(&names, lines[i], strcspn(lines[i], ":"));
	}
	rctl_sha256(request->body ? request->body : "",
				request->body_length || !request->body ? request->body_length : strlen(request->body), hash);
	appendStringInfo(&text, "\n%s\n%s", names.data, rctl_hex(hash, sizeof(hash)));
	rctl_sha256(text.data, text.len, hash);
	*signed_headers = names.data;
	return rctl_hex(hash, sizeof(hash));
}

/* ---- the signature ---- */

static char *
signature(const char *secret, const char *day, const char *region, const char *service, const char *text)
{
	char	   *first = psprintf("AWS4%s", secret);
	uint8		key[RCTL_SHA256_LEN];

	rctl_hmac_sha256(first, strlen(first), day, strlen(day), key);
	rctl_hmac_sha256(key, sizeof(key), region, strlen(region), key);
	rctl_hmac_sha256(key, sizeof(key), service, strlen(service), key);
	rctl_hmac_sha256(key, sizeof(key), "aws4_request", strlen("aws4_request"), key);
	rctl_hmac_sha256(key, sizeof(key), text, strlen(text), key);
	explicit_bzero(first, strlen(first));
	pfree(first);
	return rctl_hex(key, sizeof(key));
}

RctlHttpRequest *
rctl_aws_sign(const RctlHttpRequest *request, const RctlAwsCredentials *credentials,
			  const char *region, const char *service, TimestampTz now)
{
	RctlHttpRequest *copy = palloc(sizeof(RctlHttpRequest));
	RctlHttpHeader *headers;
	char	   *date = amz_date(now);
	char	   *day = pnstrdup(date, 8);
	char	   *scope = psprintf("%s/%s/%s/aws4_request", day, region, service);
	char	   *names;
	char	   *hash;
	int			count = 0;

	*copy = *request;
	if (credentials == NULL)
		return copy;
	while (request->headers && request->headers[count].name)
		count++;
	headers = palloc0(sizeof(RctlHttpHeader) * (count + 4));
	if (count > 0)
		memcpy(headers, request->headers, sizeof(RctlHttpHeader) * count);
	copy->headers = headers;
	headers[count].name = "X-Amz-Date";
	headers[count++].value = date;
	if (credentials->session_token)
	{
		headers[count].name = "X-Amz-Security-Token";
		headers[count++].value = credentials->session_token;
	}
	hash = canonical_hash(copy, &names);
	headers[count].name = "Authorization";
	headers[count].value = psprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%s", ALGORITHM,
									credentials->access_key_id, scope, names,
									signature(credentials->secret_access_key, day, region, service,
											  psprintf("%s\n%s\n%s\n%s", ALGORITHM, date, scope, hash)));
	return copy;
}
