/*-------------------------------------------------------------------------
 *
 * http_url.c
 *	  What URLs are acceptable, and which addresses are of this host.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "lib/stringinfo.h"

#include "net/http_internal.h"
#include "net/text.h"

#define MAX_URL 8192

bool
rctl_http_is_loopback(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return (ntohl(((const struct sockaddr_in *) address)->sin_addr.s_addr) >> 24) == 127;
	if (address->sa_family == AF_INET6)
	{
		const struct in6_addr *in6 = &((const struct sockaddr_in6 *) address)->sin6_addr;

		return IN6_IS_ADDR_LOOPBACK(in6) || (IN6_IS_ADDR_V4MAPPED(in6) && in6->s6_addr[12] == 127);
	}
	return false;
}

/*
 * 169.254.0.0/16 and fe80::/10; fd00:ec2::/32 is Amazon's IPv6 block for the
 * same purpose.
 */
bool
rctl_http_is_link_local(const struct sockaddr *address)
{
	static const unsigned char amazon[] = {0xfd, 0x00, 0x0e, 0xc2};

	if (address->sa_family == AF_INET)
		return (ntohl(((const struct sockaddr_in *) address)->sin_addr.s_addr) >> 16) == 0xA9FE;
	if (address->sa_family == AF_INET6)
	{
		const struct in6_addr *in6 = &((const struct sockaddr_in6 *) address)->sin6_addr;

		return IN6_IS_ADDR_LINKLOCAL(in6) || memcmp(in6->s6_addr, amazon, sizeof(amazon)) == 0;
	}
	return false;
}

/* A part of the URL, copied; NULL if it has none. */
static char *
get_part(CURLU *handle, CURLUPart what)
{
	char	   *part = NULL;
	char	   *copy = NULL;

	if (curl_url_get(handle, what, &part, 0) == CURLUE_OK && part)
		copy = pstrdup(part);
	curl_free(part);
	return copy;
}

static char *
parse_with(CURLU *handle, const char *url, RctlHttpUrl *parsed)
{
	const char *slashes = strstr(url, "://");
	char	   *scheme;
	char	   *port;
	size_t		length;

	/* libcurl is lenient where the host is missing */
	if (slashes == NULL || slashes[3] == '/')
		return "it is not a URL that begins with https:// and a host";
	if (curl_url_set(handle, CURLUPART_URL, url, CURLU_PATH_AS_IS) != CURLUE_OK)
		return "it is not a URL that begins with https://";
	scheme = get_part(handle, CURLUPART_SCHEME);
	if (scheme == NULL || (strcmp(scheme, "https") != 0 && strcmp(scheme, "http") != 0))
		return "the URL does not begin with https://";
	if (get_part(handle, CURLUPART_USER) || get_part(handle, CURLUPART_PASSWORD))
		return "the URL holds a user name or a password";
	if (get_part(handle, CURLUPART_FRAGMENT))
		return "the URL holds a fragment (#)";

	parsed->plain = strcmp(scheme, "http") == 0;
	parsed->host = get_part(handle, CURLUPART_HOST);
	if (parsed->host == NULL || *parsed->host == '\0')
		return "the URL names no host";
	port = get_part(handle, CURLUPART_PORT);
	if (port && strcmp(port, parsed->plain ? "80" : "443") == 0)
		port = NULL;
	parsed->authority = port ? psprintf("%s:%s", parsed->host, port) : parsed->host;
	parsed->path = get_part(handle, CURLUPART_PATH);
	if (parsed->path == NULL || *parsed->path == '\0')
		parsed->path = "/";
	parsed->query = get_part(handle, CURLUPART_QUERY);

	length = strlen(parsed->host);
	if (parsed->host[0] == '[' && length > 2)
		parsed->host = pnstrdup(parsed->host + 1, length - 2);
	return NULL;
}

char *
rctl_http_url_parse(const char *url, RctlHttpUrl *parsed)
{
	CURLU	   *handle;
	char	   *volatile problem = NULL;

	memset(parsed, 0, sizeof(*parsed));
	if (strlen(url) > MAX_URL)
		return "the URL is too long";
	for (const char *p = url; *p; p++)
		if ((unsigned char) *p <= ' ' || (unsigned char) *p >= 0x7F)
			return "the URL holds a space, a control character or one that is not ASCII";
	handle = curl_url();
	if (handle == NULL)
		return "out of memory";
	PG_TRY();
	{
		problem = parse_with(handle, url, parsed);
	}
	PG_FINALLY();
	{
		curl_url_cleanup(handle);
	}
	PG_END_TRY();
	return problem;
}

/*
 * Where it connects in the end is checked by its address, too; this is to
 * say it early, without a look-up.
 */
char *
rctl_http_url_problem(const char *url, bool metadata)
{
	RctlHttpUrl parsed;
	char	   *problem = rctl_http_url_parse(url, &parsed);
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	const struct sockaddr *address = NULL;

	if (problem || !parsed.plain)
		return problem;
	if (inet_pton(AF_INET, parsed.host, &in.sin_addr) == 1)
		address = (struct sockaddr *) &in;
	else if (inet_pton(AF_INET6, parsed.host, &in6.sin6_addr) == 1)
		address = (struct sockaddr *) &in6;

	if (address ? rctl_http_is_loopback(address) : pg_strcasecmp(parsed.host, "localhost") == 0)
		return NULL;
	if (metadata && address && rctl_http_is_link_local(address))
		return NULL;
	return metadata ?
		"plain http is for loopback and link-local addresses only" :
		"plain http is for loopback addresses only; use https";
}

char *
rctl_http_encode(const char *text)
{
	StringInfoData out;

	initStringInfo(&out);
	for (const unsigned char *p = (const unsigned char *) text; *p; p++)
	{
		if ((*p >= 'A' && *p <= 'Z') || (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') ||
			strchr("-_.~", *p))
			appendStringInfoChar(&out, *p);
		else
			appendStringInfo(&out, "%%%02X", *p);
	}
	return out.data;
}
