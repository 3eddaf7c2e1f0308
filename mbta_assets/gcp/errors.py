"""Errors of calls to Google Cloud. Importing this module loads none of Google's libraries."""


class CloudError(Exception):
    """Google Cloud refused a call or did not answer; the message says which call, why, and what to do."""


class AlreadyExistsError(CloudError):
    """Google Cloud already has a resource with the name of the one to be created."""
