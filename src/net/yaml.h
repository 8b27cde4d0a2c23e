/*-------------------------------------------------------------------------
 *
 * yaml.h
 *	  Reads YAML (kubeconfig files) by libyaml.
 *
 *-------------------------------------------------------------------------
 */
#ifndef REPLICA_CTL_NET_YAML_H
#define REPLICA_CTL_NET_YAML_H

/*
 * The first document of a text as JSON: mappings become objects (of a key that
 * stands there twice the last one counts), sequences arrays, scalars strings,
 * but for a plain null or ~ or nothing: null.  JSON is YAML, too.  The result
 * is palloc'd and valid in the database encoding.  Raises
 * ERRCODE_INVALID_TEXT_REPRESENTATION, with the line, never with content; "what" names
 * the text in the message.
 */
extern char *rctl_yaml_to_json(const char *text, size_t length, const char *what);

#endif							/* REPLICA_CTL_NET_YAML_H */
